"""Signal: is there anything to lose, and how many items would show it?"""
