"""Why a number may not be what it seems: each reason is one small pure function over raw facts."""
