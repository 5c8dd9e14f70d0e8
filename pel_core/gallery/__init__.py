"""Gallery: what runs said of the test images, to look at: one HTML page, offline, with thumbnails.

`answers` reads what runs said, `choice` says which images are shown, `thumbnails` makes them small, `page` writes it all.
"""
