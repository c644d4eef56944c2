"""How a message is put together: body, headers and options, and templates of them."""
