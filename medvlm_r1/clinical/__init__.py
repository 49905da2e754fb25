"""A model's answer as a hospital's systems take it: DICOM SR and FHIR, as pure functions of one record. Research use only."""
