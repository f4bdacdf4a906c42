"""DICOM from providers becomes joinable tables and images."""
