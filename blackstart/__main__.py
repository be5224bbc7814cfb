"""`python -m blackstart` is the console command."""

from blackstart import main

main()
