"""What tests of several rooms use, importable in their child processes too."""
