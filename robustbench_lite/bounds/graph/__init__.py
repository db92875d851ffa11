"""A network as a graph of operations that bounds are known for."""
