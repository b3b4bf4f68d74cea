"""What is proven by which test: the tables in docs/ are made from the tests' own sentences."""
