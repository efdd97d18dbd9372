"""The mesh's trust anchor and issuer, wherever they are stored."""
