"""Who may come in: keys, where they are kept, and the door that asks for them."""
