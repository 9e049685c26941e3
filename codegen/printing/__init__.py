"""Print programs as lines of code: what the printers of several targets share, for Python with torch and for C++."""
