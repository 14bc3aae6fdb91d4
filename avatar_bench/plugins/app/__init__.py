"""Local web page that classifies images, with an HTTP API, and a page that does so in a browser."""
