"""What is kept in memory for views and bindings, and how it follows a store."""
