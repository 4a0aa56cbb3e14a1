"""The words that the rules for names and places are written with: titles, particles, streets, countries, never-names.

Written by hand for this project. All words are small; a line is one idea.
"""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _phrases(text: str) -> frozenset[str]:
    return frozenset(text.split("|"))


TITLES = _words(
    "mr mrs ms miss mx dr doctor prof professor sir madam lady lord rev reverend fr father sister brother rabbi imam"
    " hon"
    " judge justice capt captain col colonel gen general lt lieutenant maj major sgt sergeant cpl private officer nurse"
    " senator governor president mayor uncle aunt aunty auntie herr frau monsieur madame mme mlle señor señora sr"
    " sra dña"
    " don doña signor signora dhr mevr king queen prince princess pope esq"
)
SPOKEN_TITLES = _words("mr mrs ms miss mx dr prof rev herr frau mme mlle señor señora sra signor signora dhr mevr")
"""Titles after which nothing but a name stands, whatever its case."""

PARTICLES = _words(
    "u ul nad van von der den de del della di da dos das du des le la les el al bin ibn bint abu abd zu zum zur ter"
    " ten af"
    " av y e i mac mc ó ní nic vda san santa santo"
)
INITIALS_SUFFIX = _words("jr sr ii iii iv md phd dds esq rn do jd mph mba cpa")
STREETS = _words(
    "street str st road rd avenue ave av lane ln drive dr boulevard blvd court ct circle cir place pl square sq terrace"
    " ter trail trl parkway pkwy highway hwy way crescent cres close grove gardens alley plaza row mews parade"
    " esplanade"
    " turnpike expressway freeway loop route rte crossing ridge heights hollow vista manor glen bypass causeway quay"
    " wharf embankment ferry"
    " rue allée allee chemin impasse quai cours sentier ruelle faubourg"
    " calle avenida avda av. paseo carrera camino camiño plaça carretera ronda travesía urbanización rúa barrio"
    " via viale piazza corso vicolo strada largo piazzale contrada"
    " rua travessa praça estrada alameda"
    " straße strasse weg allee platz gasse ring ufer damm chaussee gässchen"
    " straat laan plein gracht kade dreef steenweg singel"
    " gata gatan vägen väg gatu vej gade vei veien gate allé plass plads stræde torv tie katu kuja polku tänav tn"
    " mnt tee"
    " puiestee iela ulica ul ulice ulitsa utca út útja tér körút sor köz sokak sokağı cadde caddesi bulvarı mahallesi"
    " leoforos odos náměstí nábřeží třída aleja aleje osiedle plac bulevardul strada calea jalan jl lorong marg nagar"
)
STREET_ENDINGS = (
    "straße", "strasse", "str", "gasse", "weg", "allee", "platz", "damm", "ufer", "straat", "laan", "plein", "gracht",
    "kade", "dreef", "steenweg", "singel", "gata", "gatan", "gate", "vägen", "vegur", "vej", "gade", "vei", "veien",
    "katu", "kuja", "tie", "plads", "plass", "torget", "stien", "bakken", "götu", "stræti", "markt", "hof", "baan",
    "pad",
)  # fmt: skip
"""Endings of one-word streets. Looked at only where a number stands beside the word."""

UNITS = _words(
    "uss usns uscgc usnv hms apt apartment suite ste unit flat floor fl room rm box bldg building block blk lot psc"
    " cmr dpo apo fpo p.o. p.o"
    " pobox postfach level wing penthouse porta piso bloque escalera etage stock whg wohnung bte bp house trailer slip"
)
COMPASS = _words("n s e w ne nw se sw north south east west northeast northwest southeast southwest")
STATE_CODES = _words(
    "AL AK AZ AR CA CO CT DE FL GA HI ID IL IN IA KS KY LA ME MD MA MI MN MS MO MT NE NV NH NJ NM NY NC ND OH OK OR"
    " PA RI"
    " SC SD TN TX UT VT VA WA WV WI WY DC PR VI GU AS MP FM MH PW AA AE AP AB BC MB NB NL NS NT NU ON PE QC SK YT"
    " NSW VIC QLD TAS ACT"
)
US_STATES = _phrases(
    "alabama|alaska|arizona|arkansas|california|colorado|connecticut|delaware|florida|hawaii|idaho|illinois|indiana"
    "|iowa|kansas|kentucky|louisiana|maine|maryland|massachusetts|michigan|minnesota|mississippi|missouri|montana"
    "|nebraska|nevada|new hampshire|new jersey|new mexico|new york|north carolina|north dakota|ohio|oklahoma|oregon"
    "|pennsylvania|rhode island|south carolina|south dakota|tennessee|texas|utah|vermont|virginia|washington"
    "|west virginia|wisconsin|wyoming"
)
COUNTRIES = _phrases(
    "afghanistan|albania|algeria|american samoa|andorra|angola|anguilla|antarctica|antigua and barbuda|antigua"
    "|argentina"
    "|armenia|aruba|australia|austria|azerbaijan|bahamas|bahrain|bangladesh|barbados|belarus|belgium|belize|benin"
    "|bermuda|bhutan|bolivia|bosnia and herzegovina|bosnia|botswana|bouvet island|brazil|british virgin islands"
    "|british indian ocean territory|brunei|brunei darussalam|bulgaria|burkina faso|burma|burundi|cambodia|cameroon"
    "|canada|cape verde|cabo verde|cayman islands|central african republic|chad|chile|china|christmas island"
    "|cocos islands|colombia|comoros|congo|cook islands|costa rica|cote d'ivoire|côte d'ivoire|croatia|cuba|curacao"
    "|curaçao|cyprus|czechia|czech republic|denmark|djibouti|dominica|dominican republic|east timor|ecuador|egypt"
    "|el salvador|england|equatorial guinea|eritrea|estonia|eswatini|ethiopia|falkland islands|faroe islands|fiji"
    "|finland|france|french guiana|french polynesia|french southern territories|gabon|gambia|georgia|germany|ghana"
    "|gibraltar|great britain|greece|greenland|grenada|guadeloupe|guam|guatemala|guernsey|guinea|guinea-bissau|guyana"
    "|haiti|holland|holy see|honduras|hong kong|hungary|iceland|india|indonesia|iran|iraq|ireland|isle of man|israel"
    "|italy|ivory coast|jamaica|japan|jersey|jordan|kazakhstan|kenya|kiribati|korea|kosovo|kuwait|kyrgyzstan"
    "|kyrgyz republic|lao people's democratic republic|laos|latvia|lebanon|lesotho|liberia|libya|libyan arab jamahiriya"
    "|liechtenstein|lithuania|luxembourg|macao|macau|macedonia|madagascar|malawi|malaysia|maldives|mali|malta"
    "|marshall islands|martinique|mauritania|mauritius|mayotte|mexico|micronesia|moldova|monaco|mongolia|montenegro"
    "|montserrat|morocco|mozambique|myanmar|namibia|nauru|nepal|netherlands|netherlands antilles|new caledonia"
    "|new zealand|nicaragua|niger|nigeria|niue|norfolk island|north korea|north macedonia|northern ireland"
    "|northern mariana islands|norway|oman|pakistan|palau|palestine|palestinian territory|panama|papua new guinea"
    "|paraguay|peru|philippines|pitcairn islands|pitcairn|poland|portugal|puerto rico|qatar|reunion|réunion|romania"
    "|russia|russian federation|rwanda|saint barthelemy|saint helena|saint kitts and nevis|saint lucia|saint martin"
    "|saint pierre and miquelon|saint vincent and the grenadines|samoa|san marino|sao tome and principe|saudi arabia"
    "|scotland|senegal|serbia|seychelles|sierra leone|singapore|sint maarten|slovakia|slovak republic"
    "|slovakia (slovak republic)|slovenia|solomon islands|somalia|south africa|south korea|south sudan"
    "|south georgia and the south sandwich islands|spain|sri lanka|sudan|suriname"
    "|svalbard & jan mayen islands|svalbard and jan mayen|swaziland|sweden|switzerland|syria|syrian arab republic"
    "|taiwan|tajikistan|tanzania|thailand|timor-leste|togo|tokelau|tonga|trinidad and tobago|tunisia|turkey|türkiye"
    "|turkmenistan|turks and caicos islands|tuvalu|uganda|ukraine|united arab emirates|united kingdom|united states"
    "|united states of america|united states virgin islands|united states minor outlying islands|uruguay|uzbekistan"
    "|vanuatu|vatican city|vatican|venezuela|vietnam|viet nam|wales|wallis and futuna|western sahara|yemen|zambia"
    "|zimbabwe|usa|u.s.a.|u.k.|uae"
)

ORGANIZATION_ENDINGS = _words(
    "ltd inc llc llp plc corp corporation company co gmbh ag kg ohg sa sas sarl srl spa bv nv ab oy as aps kft doo pty"
    " limited incorporated group holdings partners associates sons bank university college school institute hospital"
    " clinic centre center foundation trust society association agency ministry department laboratories labs church"
    " council committee systems solutions technologies networks industries enterprises consulting"
)
NEVER_NAMES = _words(
    "i i'm i've i'd i'll ok okay god lord christ christians christianity bible gospel islam islamic"
    " muslim muslims moslem jew jews jewish judaism hindu hindus buddhist buddhism buddha catholic catholics protestant"
    " protestants methodist baptist anglican orthodox koran quran allah satan devil heaven christmas easter halloween"
    " thanksgiving ramadan hanukkah passover sabbath monday tuesday wednesday thursday friday saturday sunday mon tue"
    " wed thu fri sat sun january february march july september october november december feb"
    " mar apr jun jul aug sep sept oct nov dec english american americans british french german germans spanish italian"
    " italians russian russians chinese japanese korean indian indians irish scottish scotch welsh dutch danish swedish"
    " norwegian finnish polish czech slovak hungarian romanian bulgarian greek greeks turkish turks arab arabs arabic"
    " persian hebrew latin portuguese brazilian mexican mexicans canadian canadians australian australians african"
    " africans asian asians european europeans hispanic latino latina caucasian scandinavian celtic slavic"
    " egyptian israeli iraqi iranian syrian lebanese saudi pakistani afghan thai vietnamese filipino indonesian"
    " malaysian nigerian kenyan ethiopian argentine colombian peruvian chilean cuban jamaican swiss austrian belgian"
    " ukrainian serbian croatian roman romans norman saxon gothic victorian georgian byzantine ottoman"
    " europe asia africa america antarctica atlantic pacific arctic mediterranean internet web online"
    " wifi bluetooth google facebook twitter instagram youtube linkedin whatsapp skype microsoft apple amazon android"
    " windows linux iphone ipad paypal netflix wikipedia visa mastercard amex email pdf faq covid medicare"
    " medicaid congress parliament senate house government state federal republic union army navy republican democrat"
    " republicans democrats democratic mr mrs ms dr am pm"
    " nazi nazis communist communists marxist negro negroes"
    " q a re fwd cc bcc ps nb eg ie etc vs aka asap fyi id no yes please thanks thank dear hi hello hey regards"
    " sincerely"
    " bot user agent assistant customer patient doctor client subject name address phone fax email date time dob sex"
    " hipaa gdpr"
)
"""Words with a capital that name nobody: faiths, peoples, days, months, brands that everyone has, forms of a letter."""

LOWER_NEVER = _words(
    "im ive id ill dont cant wont isnt arent didnt doesnt couldnt wouldnt shouldnt thats whats theres heres youre"
    " theyre"
    " youve weve lets hes shes wasnt werent hasnt havent aint gonna wanna gotta kinda sorta dunno lol omg btw idk imo"
    " tbh thx pls plz ppl u ur r n bc cuz tho nope yep yeah yup nah hmm haha ok okay asap aka fyi etc eg ie vs am pm mg"
    " ml kg km cm mm lb lbs oz ft hr hrs min mins sec secs yr yrs mo mos wk wks st nd rd th www http https com org net"
    " pdf jpg png html css json xml sql api url usb cpu gpu ram ssd hdmi wifi gps atm pin ssn mrn npi vin iban dob"
    " bp ecg ekg mri ct"
    " iv icu er ed gp hiv aids std copd dna rna bmi ldl hdl tsh ptsd adhd usd eur gbp cv hr vip faq diy ceo cfo cto phd"
    " mba md rn np pa usa uk eu un nato tv dvd cd dj mp3 ios app ai ml nlp llm pc"
)
ACRONYMS = frozenset(w.upper() for w in LOWER_NEVER) | _words(
    "SSN IBAN ATM PIN DOB MRN CEO CFO CTO COO HR IT PR AM PM TV CD DVD DNA RNA HIV AIDS MRI CT ICU ER ED GP FBI CIA"
    " NASA"
    " NATO UN EU US USA UK UAE BBC CNN NBC ABC CBS IRS DMV FDA CDC WHO NHS IBM VISA AMEX USD EUR GBP CHF JPY CAD AUD"
    " FAQ"
    " ID OK ASAP FYI AKA RSVP ETA DIY VIP CV BA BSC MA MSC MBA PHD MD RN II III IV VI VII VIII IX XI XII GMT UTC EST"
    " PST"
    " CST MST EDT PDT CDT BST CET AD BC CE BCE RE CC BCC PS NB TBD TBA NA VAT LLC LTD INC PLC GMBH BIC SWIFT ACH"
    " HIPAA GDPR COVID PCR BMI ECG EKG COPD ADHD PTSD UTI BP HR RR IM PO PRN BID TID QID NPO SOB HTN DM CAD CHF"
)
PLACE_CUES = _words("in from at near to into via outside around across toward towards visiting visit leaving reach")
PLACE_WORDS = _words(
    "city town village county district province region state island islands river lake mountain mount bay port beach"
    " valley airport station neighborhood neighbourhood suburb municipality"
)
FUNCTION = _words(
    "the a an this that these those when where who whom whose which how why what in on at for to from of by with about"
    " after before during since until while as and or but nor so yet if then than because though although unless is are"
    " was were be been being am do does did doing done have has had having you he she it we they me him us them my your"
    " his her its our their mine yours hers ours theirs not please can could would should will shall may might must"
    " let here there now just also only even very too all any some each every both either neither one two three four"
    " five six seven eight nine ten other another such same own more most much many few less least first last next"
    " there's it's that's what's who's where's how's he's she's they're we're you're don't doesn't didn't can't"
    " couldn't"
    " won't wouldn't shouldn't isn't aren't wasn't weren't hasn't haven't hadn't he'll she'll they'll we'll you'll he'd"
    " she'd they'd we'd you'd we've they've you've get got give go come see look make take know think say said tell ask"
    " want need use like try call work find feel keep start show hear run move pay meet send write read add"
    " hereby herein re sub sec fig table page chapter section part item note notes total"
)
"""Words that stand in no name when they open a sentence."""
DETERMINERS = _words(
    "the a an this that these those our your my his her its their each every any some no of new old first last next all"
    " other same main under per see or both"
)
"""Words before a capital that make it a thing rather than a person: `the Company`, `our Agreement`."""
COUNTRY_FORMS = (
    r"(?:(?:democratic|people's|islamic|federal|federative|socialist|united|co-operative|cooperative|bolivarian"
    r"|hashemite"
    r"|arab|oriental|plurinational|independent|the) ){0,3}(?:republic|kingdom|federation|state|states|commonwealth"
    r"|principality|duchy|sultanate|union) of (?:the )?"
)
"""What stands before a country in its full name."""
AMBIGUOUS_PLACES = _words(
    "jordan chad israel georgia virginia washington carolina dakota chile china turkey jersey guinea montana tennessee"
    " holland england ireland france india malta kenya cuba sudan indiana dominica tonga mali niger guam montserrat"
    " martinique benin togo florida nevada panama reunion"
)
"""Countries and states that people are called, or that are things: certain only after `in`, `from`, `to` …"""
WEAK_STREETS = _words(
    "way court drive place square ring row ferry loop grove gardens trail hollow glen cross crossing circle heights"
    " ridge"
    " manor route largo plaza via st ct pl sq dr av sor tie out pass pad hof terrace close view parade quay gate ter"
    " marg nagar col mews path walk alley gata plac weg sp terrace track ring rise mall bend bypass wharf camp"
    " calea tee ul ut estate estates ferry loop embankment expressway freeway passage rest landing run"
)
STRONG_UNITS = _words(
    "apo fpo p.o. uss usns uscgc usnv hms apt apartment suite ste psc cmr dpo p.o pobox postfach penthouse whg"
    " wohnung bldg"
)
