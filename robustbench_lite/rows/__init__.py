"""What belongs to one sample and looks at no neighbour: tables of rows, random numbers, losses."""
