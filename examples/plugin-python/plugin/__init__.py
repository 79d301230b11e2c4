"""A storage plugin for tagstore, written from docs/plugins/protocol.md."""
