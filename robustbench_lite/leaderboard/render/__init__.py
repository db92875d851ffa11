"""A board's document as text, tables, pictures and a page."""
