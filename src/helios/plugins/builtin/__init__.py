"""The built-in plug-ins of Helios; they use only public hooks."""
