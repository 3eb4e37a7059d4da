"""What a rented accelerator without a network can measure in half an hour.

    here     python -m benchmarks.half_hour prepare --out half-hour     wheels and environment.sh
    there    source half-hour/environment.sh
             python -m benchmarks.half_hour 1 --out RESULTS             then 2, 3, 4
    here     python -m benchmarks.half_hour collect RESULTS/*.json

    part -> a process under its time limit -> record kept there -> RESULTS/half_hour_N.json

Commands 1 to 4 end within 24 minutes together. Each leaves one file, written after every part.
What is measured is kept in the user's cache directory there, and compiled programs beside it. So
the same command goes on with what is missing, and compiles nothing twice. Any card is measured and
labelled; parts that it has no memory for say so. `--rehearse` runs the same on a CPU with the sizes
of the embedded StoryWorld model.
"""
