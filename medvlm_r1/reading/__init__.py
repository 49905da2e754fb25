"""The page that a radiologist reads with, and the server's part of it."""
