"""Programs as lines of text: what the printers of several targets share, for Python with torch and for C++."""
