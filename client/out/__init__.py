"""What a department does with its chosen model: predict, export, serve, look at it in a notebook."""
