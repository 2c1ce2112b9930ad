"""Where an RGB pixel lies in the thermal image: lenses, calibration files, registration."""
