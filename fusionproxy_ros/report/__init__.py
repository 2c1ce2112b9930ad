"""One page to judge a recording by."""
