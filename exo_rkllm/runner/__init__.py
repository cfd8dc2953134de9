"""One child process a loaded model: `wire` is what they say to each other, `child` and `parent` the two ends."""
