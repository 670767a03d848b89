# What pictures with a row per case share: their height, and the names at the left. Loaded by their scripts once their
# legend is known. rows.dat: y, name. headers.dat: y, prompt.
HEIGHT = LINE * (ROWS + 0.6)
half = 0.36 # of a bar's height
eval open_page

set yrange [ROWS + 0.1 : -0.5]
set ytics () scale 0
set grid noytics
LONGEST = 0
longer(text) = strlen(text) > LONGEST ? strlen(text) : LONGEST
stats 'rows.dat' using (LONGEST = longer(stringcolumn(2)), 0) nooutput
LEFT = 22 + LETTER * LONGEST # pixels
