"""Measurements that the documents quote, each a command that anybody can repeat. Nothing here is a test."""
