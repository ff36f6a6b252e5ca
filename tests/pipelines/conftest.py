"""The small web and its undisturbed build."""

from helpers.webs import built, server, web

__all__ = ["built", "server", "web"]
