"""Conversion of TensorFlow.js graph models to ONNX files, without TensorFlow and without `onnx`."""
