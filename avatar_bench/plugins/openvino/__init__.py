"""Prediction and export by OpenVINO, the fastest runtime on processors of Intel."""
