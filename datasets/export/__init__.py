"""Export of labels with their context as plain Parquet or Hugging Face files, with a dataset card.

Begin at `export`. `export_rows` makes the rows, `table_files` writes them, `output_folder` puts the folder in
place as a whole, `dataset_card` writes its README.

Imports sql and store.
"""
