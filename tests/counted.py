"""A function that counts its calls."""


class Counted:
    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, t, y):
        self.calls += 1
        return self.function(t, y)
