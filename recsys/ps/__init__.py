"""The parameter server without Ray: routing, the client that is itself a row store, dense parameters as rows."""
