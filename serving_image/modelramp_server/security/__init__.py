"""Who may ask: keys, tokens, rates, TLS. Nothing here is imported, let alone called, unless a setting asks for it."""
