"""From keys to one validated object and back. Needs pydantic, so it is imported when needed."""
