"""What a mesh's identities hang on: its trust anchor and its issuer, wherever they are kept."""
