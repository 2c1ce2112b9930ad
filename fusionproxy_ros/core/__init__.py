"""The words that everything else speaks: frames, errors, pictures, messages; no state."""
