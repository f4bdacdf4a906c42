"""What holds for every aggregate, whatever its capability."""
