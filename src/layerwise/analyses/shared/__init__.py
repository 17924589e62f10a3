"""Common parts of several analyses, and no analysis by itself."""
