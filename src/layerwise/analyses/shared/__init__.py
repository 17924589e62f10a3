"""What several analyses are built on, and no analysis by itself."""
