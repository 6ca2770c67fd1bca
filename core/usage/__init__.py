"""What was measured in each image, and the queries behind the charts."""
