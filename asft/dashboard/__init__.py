"""The dashboard: one static site from the store, opened from disk, without a server and without a network."""

from asft.dashboard.site import Site, SiteCounts

__all__ = ["Site", "SiteCounts"]
