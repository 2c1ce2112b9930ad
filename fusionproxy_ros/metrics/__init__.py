"""How good a fused picture is; numpy and OpenCV only."""
