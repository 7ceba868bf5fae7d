"""Numbers of lesions and of patients, from a mask and a PET; knows no file format but its own table's."""
