from nets.escape.box import simulate_box_escape as simulate_box_escape
