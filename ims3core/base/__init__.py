"""What every stage stands on and what can change a result: files, seeds, machine, processes; a dependency of each."""
