"""From a department's source to rows that a model can learn from; ``commonroot.client.data`` is the public face."""
