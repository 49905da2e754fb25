"""The page at which a person reads a picture and asks about it: its routes and its static files."""
