"""The commands, one public function each."""
