"""What a project gets that installs the package, and not this repository."""
