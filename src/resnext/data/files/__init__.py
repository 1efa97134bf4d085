"""Files and archives: storage by path or URL, downloads, tar archives, indexes."""
