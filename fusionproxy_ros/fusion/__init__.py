"""From a registered pair to one picture, on a CPU or a GPU: gain control, the student, colour."""
