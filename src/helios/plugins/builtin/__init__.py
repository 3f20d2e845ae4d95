"""The plug-ins that come with Helios; they use public hooks only."""
