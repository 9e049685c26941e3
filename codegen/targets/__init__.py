"""The targets: one folder each, with its printer and its templates. To add one, see ``targets/README.md``."""
