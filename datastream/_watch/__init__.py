"""From one Source to any number of subscribers: polling, publishing, delivering."""
